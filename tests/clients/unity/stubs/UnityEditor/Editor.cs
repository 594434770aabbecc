using System;
using System.Collections.Generic;
using UnityEngine;

namespace UnityEditor
{
    public sealed class InitializeOnLoad : Attribute { }
    public sealed class CustomEditor : Attribute { public CustomEditor(Type type) { } }
    public sealed class CustomPropertyDrawer : Attribute { public CustomPropertyDrawer(Type type) { } }
    public sealed class MenuItem : Attribute
    {
        public MenuItem(string path) { }
        public MenuItem(string path, bool isValidateFunction, int priority) { }
    }
    public sealed class MenuCommand { public UnityEngine.Object context; }
    public enum MessageType { None, Info, Warning, Error }
    public enum PlayModeStateChange { EnteredEditMode, ExitingEditMode, EnteredPlayMode, ExitingPlayMode }

    public class Editor : ScriptableObject
    {
        public UnityEngine.Object target { get; set; }
        public virtual void OnInspectorGUI() { }
        public virtual bool RequiresConstantRepaint() => false;
        public virtual bool HasPreviewGUI() => false;
        public virtual GUIContent GetPreviewTitle() => null;
        public virtual void OnPreviewGUI(Rect area, GUIStyle background) { }
        public virtual string GetInfoString() => "";
        public bool DrawDefaultInspector() => false;
    }

    public class EditorWindow : ScriptableObject
    {
        public static T GetWindow<T>(string title) where T : EditorWindow, new() => new T();
        public void Repaint() { }
    }

    public class PropertyDrawer
    {
        public virtual float GetPropertyHeight(SerializedProperty property, GUIContent label) => 0;
        public virtual void OnGUI(Rect area, SerializedProperty property, GUIContent label) { }
    }

    public sealed class SerializedObject { public UnityEngine.Object targetObject { get; set; } }

    public sealed class SerializedProperty
    {
        public readonly Dictionary<string, SerializedProperty> Fields = new Dictionary<string, SerializedProperty>();
        public bool isExpanded { get; set; }
        public string stringValue { get; set; } = "";
        public int enumValueIndex { get; set; }
        public SerializedObject serializedObject { get; set; } = new SerializedObject();
        public SerializedProperty FindPropertyRelative(string name) => Fields[name];
    }

    public static class EditorApplication
    {
        public delegate void CallbackFunction();
        public static CallbackFunction update;
        public static event Action<PlayModeStateChange> playModeStateChanged;
        public static event Action quitting;
        public static int QueuedUpdates;
        public static double timeSinceStartup { get; set; }
        public static void QueuePlayerLoopUpdate() => QueuedUpdates++;
        public static void Change(PlayModeStateChange change) => playModeStateChanged?.Invoke(change);
        public static void Quit() => quitting?.Invoke();
    }

    public static class AssemblyReloadEvents
    {
        public delegate void AssemblyReloadCallback();
        public static event AssemblyReloadCallback beforeAssemblyReload;
        public static void Reload() => beforeAssemblyReload?.Invoke();
    }

    public static class EditorPrefs
    {
        static readonly Dictionary<string, string> Kept = new Dictionary<string, string>();
        public static string GetString(string key, string otherwise) => Kept.ContainsKey(key) ? Kept[key] : otherwise;
        public static void SetString(string key, string value) => Kept[key] = value;
    }

    public static class SessionState
    {
        static readonly Dictionary<string, int> Kept = new Dictionary<string, int>();
        public static int GetInt(string key, int otherwise) => Kept.ContainsKey(key) ? Kept[key] : otherwise;
        public static void SetInt(string key, int value) => Kept[key] = value;
        public static void EraseInt(string key) => Kept.Remove(key);
    }

    public static class EditorUtility { public static bool IsPersistent(UnityEngine.Object one) => false; }
    public static class Selection { public static UnityEngine.Object activeObject { get; set; } }
    public static class Undo { public static void RegisterCreatedObjectUndo(UnityEngine.Object one, string name) { } }
    public static class GameObjectUtility { public static void SetParentAndAlign(GameObject child, GameObject parent) { } }

    public static class EditorStyles
    {
        public static GUIStyle boldLabel { get; } = new GUIStyle();
        public static GUIStyle miniLabel { get; } = new GUIStyle();
        public static GUIStyle miniBoldLabel { get; } = new GUIStyle();
        public static GUIStyle wordWrappedLabel { get; } = new GUIStyle();
    }

    public static class EditorGUIUtility
    {
        public static float singleLineHeight => 18;
        public static float standardVerticalSpacing => 2;
    }

    public static class EditorGUI
    {
        public static readonly List<string> Popups = new List<string>();
        public static int indentLevel { get; set; }
        public static float GetPropertyHeight(SerializedProperty property, bool includeChildren) => 18;
        public static bool PropertyField(Rect area, SerializedProperty property, bool includeChildren) => false;
        public static bool Foldout(Rect area, bool open, string label, bool toggleOnLabelClick) => open;
        public static int Popup(Rect area, string label, int index, string[] options)
        {
            Popups.Add(label + ": " + string.Join(",", options));
            return index;
        }
    }

    public static class EditorGUILayout
    {
        /// <summary>Everything that was drawn since it was last cleared.</summary>
        public static readonly List<string> Drawn = new List<string>();
        public static void Space() { }
        public static void HelpBox(string text, MessageType type) => Drawn.Add(type + ": " + text);
        public static void LabelField(string text) => Drawn.Add(text);
        public static void LabelField(string text, GUIStyle style) => Drawn.Add(text);
        public static void LabelField(string label, string text) => Drawn.Add(label + ": " + text);
        public static void LabelField(string label, string text, GUIStyle style) => Drawn.Add(label + ": " + text);
        public static string TextField(string text) => text;
        public static string TextField(string label, string text) => text;
        public static string TextArea(string text, GUIStyle style) { Drawn.Add(text); return text; }
        public static float Slider(string label, float value, float min, float max) { Drawn.Add(label + "~" + value); return value; }
        public static bool Toggle(string label, bool value) { Drawn.Add(label + "?"); return value; }
        public static int Popup(string label, int index, string[] options) { Drawn.Add(label + ":" + string.Join(",", options)); return index; }
        public static Rect BeginHorizontal(params GUILayoutOption[] options) => new Rect();
        public static void EndHorizontal() { }
        public static Vector2 BeginScrollView(Vector2 scroll, params GUILayoutOption[] options) => scroll;
        public static void EndScrollView() { }
    }
}
