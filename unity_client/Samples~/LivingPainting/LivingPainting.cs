using UnityEngine;

namespace Everscene.Samples
{
    /// <summary>
    /// You will see a painting on a dark wall that lives, and a column of buttons: one for each event of the scene.
    /// Put it on an empty object, or open the scene beside it, start `everscene serve`, press Play.
    /// </summary>
    public sealed class LivingPainting : MonoBehaviour
    {
        const float ButtonWidth = 120;
        const float ButtonHeight = 24;

        [SerializeField] string endpoint = "tcp://127.0.0.1:7464";

        public EversceneStream Stream { get; private set; }

        void Start()
        {
            PrepareStage();
            GameObject painting = GameObject.CreatePrimitive(PrimitiveType.Quad);
            painting.name = "Painting";
            painting.transform.position = new Vector3(0, 0, 2);
            painting.transform.localScale = new Vector3(16f / 9f, 1, 1);
            Stream = painting.AddComponent<EversceneStream>();
            Stream.TargetRenderer = painting.GetComponent<Renderer>();
            Stream.Endpoint = endpoint;
        }

        void OnGUI()
        {
            float y = 10;
            foreach (SceneEvent known in Stream.Scene.Events)
            {
                if (GUI.Button(new Rect(10, y, ButtonWidth, ButtonHeight), known.Label)) Stream.SendEvent(known.Name);
                y += ButtonHeight + 2;
            }
            GUI.Label(new Rect(ButtonWidth + 20, 10, 800, 40), Stream.Problem.Length > 0 ? Stream.Problem : Stream.Prompt);
        }

        static void PrepareStage()
        {
            if (Camera.main == null)
            {
                var camera = new GameObject("Main Camera") { tag = "MainCamera" }.AddComponent<Camera>();
                camera.clearFlags = CameraClearFlags.SolidColor;
                camera.backgroundColor = new Color(0.08f, 0.07f, 0.07f);
            }
            new GameObject("Light").AddComponent<Light>().type = LightType.Directional;
        }
    }
}
