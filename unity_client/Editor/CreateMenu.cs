using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>GameObject ▸ Everscene: objects that show the stream as soon as Play is pressed.</summary>
    static class CreateMenu
    {
        [MenuItem("GameObject/Everscene/Painting", false, 10)]
        static void CreatePainting(MenuCommand command)
        {
            GameObject painting = GameObject.CreatePrimitive(PrimitiveType.Quad);
            painting.name = "Everscene Painting";
            painting.transform.localScale = new Vector3(16f / 9f, 1, 1);
            var stream = painting.AddComponent<EversceneStream>();
            stream.TargetRenderer = painting.GetComponent<Renderer>();
            stream.LaunchInEditor = true;
            Place(painting, command);
        }

        [MenuItem("GameObject/Everscene/Stream", false, 11)]
        static void CreateStream(MenuCommand command)
        {
            var made = new GameObject("Everscene Stream");
            made.AddComponent<EversceneStream>().LaunchInEditor = true;
            Place(made, command);
        }

        static void Place(GameObject made, MenuCommand command)
        {
            GameObjectUtility.SetParentAndAlign(made, command.context as GameObject);
            Undo.RegisterCreatedObjectUndo(made, "Create " + made.name);
            Selection.activeObject = made;
        }
    }
}
